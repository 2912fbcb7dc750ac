"""The decisions, pure: events and a time go in, changed state and effects come out.

Nothing in this package reads a clock, draws a random number, logs, or talks to anything. Time is an argument, in
microseconds on one line that never steps backwards while a coordinator runs (`_us`).
"""
