"""The FLUX model family in plain PyTorch. Start reading at `pipeline`; the table of models is in `models`."""
