"""Which model do these data support, with which parameters, and is it enough?"""
