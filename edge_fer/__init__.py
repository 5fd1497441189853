"""edge-fer: facial expression recognition that runs fast, and honestly, on a laptop."""

__version__ = "0.1.0"
