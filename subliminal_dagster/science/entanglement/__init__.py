"""Token entanglement: whether numbers and animals raise each other in the base model, beyond how frequent both are.

Belongs here: the measures, what they say of a study's numbers and children, figures, the section. Does not belong here:
the children.
"""
