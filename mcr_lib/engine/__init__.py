"""What a trainer needs and nobody reads first: checkpoints, processes, precision. It knows no image, report or loss."""
