"""Every use of Keras' private API: attributes of its objects that begin with an underscore.

They may change in any release of Keras, so that `pyproject.toml` states the tested versions. Each
function names the private attribute that it uses, and the public one that is missing.
"""
