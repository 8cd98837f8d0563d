"""What training, searching and recovering cost on this machine, and which targets that meets."""
