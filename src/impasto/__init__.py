"""impasto: FLUX text-to-image on your own machines, behind fal.ai's wire protocol."""

from impasto import quiet

__version__ = "0.1.0"

quiet.silence()  # here, so that no import of a library can come before it, in any process of ours
