"""BAGEL (Deng et al. 2025, arXiv:2505.14683): one transformer that reads and writes text and pictures, in two sizes."""
