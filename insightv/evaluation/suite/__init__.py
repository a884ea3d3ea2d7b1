"""The benchmarks in three steps that need not follow at once: answers are generated, scored by a named rule, and held against another system's."""
