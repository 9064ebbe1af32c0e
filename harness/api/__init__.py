"""What `import detmodes` offers: thin functions over what the command line calls, without its screen.

`detmodes.py` finds each of them here when it is asked for. docs/howto/python.md shows them in use.
"""
