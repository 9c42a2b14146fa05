"""HTTP on uvicorn and Starlette."""
