"""What `detmodes speed` measures of this machine."""
