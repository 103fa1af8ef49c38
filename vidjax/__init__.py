"""vidjax."""
