"""How good a version is: normalised entropy, calibration, and paired comparison with the version that serves."""
