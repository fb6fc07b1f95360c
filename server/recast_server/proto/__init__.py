"""The hop expert -> foundation on the wire; ``*_pb2*`` is generated from ``foundation.proto`` (see generate.py)."""
