"""How well a judge judges: any scorer of any student, evaluated against gold preferences or graded answers."""
