"""Results: the records of training, and the tables and figures made from them."""
