"""What a judge is worth: any scorer of any student, measured against gold preferences or graded answers."""
