"""What only the lessons use: their session, their pictures, their explorers, the one-patch experiment, costs.

Not the library: a notebook stands beside this folder, so `from kit.lesson import Lesson` finds it there.
"""
