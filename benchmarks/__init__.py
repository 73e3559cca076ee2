"""Benchmarks: a program that measures eventflow on the machine it runs on, one file a question.

Each figure stands beside a baseline of the same work done bare, measured in the same run in alternating turns, so that
ratios hold on a noisy machine. Nothing here is part of the library, and the library knows nothing of it.
"""
