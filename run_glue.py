#!/usr/bin/env python
"""Fine-tunes classifiers on GLUE or one's own files: `python run_glue.py --help`. Installed, it is `lstsd-glue`."""

from lstsd_hf.glue.command import run

if __name__ == "__main__":
    run()
