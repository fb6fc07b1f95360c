"""How a version lands: the artefact on the volume first, the ModelVersion that vouches for it second."""
