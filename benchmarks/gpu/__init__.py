"""Everything that needs a GPU, in one call: bash benchmarks/gpu.sh. Each part is a command of __main__.py."""
