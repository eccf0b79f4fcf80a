"""Results: what training recorded, and the tables and figures made from it."""
