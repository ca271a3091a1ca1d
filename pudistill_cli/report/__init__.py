"""What people read: on the screen the plan of a dry run, results, answers and a diagnosis; `report.html` of a run."""
