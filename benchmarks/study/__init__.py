"""The study: arms × seeds, each trained and measured, and from these a verdict on every claim of the paper."""
