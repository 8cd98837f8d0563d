"""What a trainer needs and nobody reads first: checkpoints, processes, precision, progress, provenance.

Not the method: nothing here knows an image, a report or a loss."""
