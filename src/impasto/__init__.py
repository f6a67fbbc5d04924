"""impasto: FLUX text-to-image on your own machines, behind fal.ai's wire protocol."""

__version__ = "0.1.0"
