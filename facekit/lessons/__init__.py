"""What turns lesson sources into notebooks, and what the notebooks call: exercises and quizzes.

build.py     one source, two notebooks: the learner's and the one with solutions
skeleton.py  the rules that every lesson keeps, as a list of problems found in a notebook
exercises.py checks that say correct, not yet or not attempted; exercises_NN.py hold those of lesson NN
quiz.py      quizzes as data; quizzes/NN.json hold those of lesson NN
"""
