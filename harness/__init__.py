"""detmodes: what does a training objective cost in AP, and how much mode collapse does it prevent?"""

__version__ = "0.1.0"
