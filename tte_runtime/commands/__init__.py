"""The commands of `tte`, one file each. They import only click at the top, so that `tte --help` stays quick.

A command checks its options, calls the library and prints; what it prints is worked out elsewhere.
"""
