"""Small commands: `python -m vidjax.tools.<name>`."""
