"""Commands of `keras-cnns`, a file each, which cli.py mounts."""
