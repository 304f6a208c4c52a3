"""Importing: DICOM, .mha, BIDS and loose NIfTI into the published folder layout."""
