"""mmpeft: a study of parameter-efficient fine-tuning for multimodal language models.

Importing this package is cheap: torch is imported by the modules that compute (`mmpeft.loading`, `mmpeft.run`), not here.
"""

__version__ = "0.1.0"
