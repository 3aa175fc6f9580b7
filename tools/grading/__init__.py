"""Grading a folder of submitted notebooks, each alone in a caged kernel. `make grade`, or `python -m tools.grade`.

    assignment   what an assignment is: its source, its exercises, its points
    submissions  whose notebook is which file
    assemble     the learner's answers and our tests, put together as steps to execute
    cage         limits, no network, no file outside a scratch folder
    kernel       one kernel in one cage
    guard        code that looks, from inside the kernel, whether the tests still can be believed
    run          one notebook, from file to points
    report       scores.csv, marks.csv and the feedback pages
"""
