"""The doctor: what keeps this node from doing its work, seen from both directions, and who has to change what.

`examine.examine` runs everything; each module holds the checks of one side and returns findings. A check never raises
for what it finds, changes nothing but a probe file that it removes, and says nothing of a patient.
"""
