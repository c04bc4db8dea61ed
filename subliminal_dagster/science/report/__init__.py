"""What all sections of the report share.

Belongs here: the shapes of claims, charts and tables, how they look and become HTML, published figures. Does not belong
here: any one section: it lies beside its experiment.
"""
