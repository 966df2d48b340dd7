"""The training payload: ``python -m ftplatform.training spec.json``. Imports torch; the control plane never imports
this package.
"""
