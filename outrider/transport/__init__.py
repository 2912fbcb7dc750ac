"""How a client talks to a coordinator: submissions in frames, results on one stream, both resumed after any break."""
