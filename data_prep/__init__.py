"""From official downloads to one data set folder that everything else reads.

Not the model: nothing here imports torch or `mcr_lib`. `python -m data_prep --help` lists the commands.
"""
