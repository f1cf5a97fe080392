"""A load that several processes make, over Locust's protocol: a master deals, admits and records, and workers play.

conductor.py is the master: it knows its workers (roster.py), deals them the schedule (dealer.py, dealing.py), admits
what they send (desk.py, reception.py) and takes in their part of the record (shipping.py). worker.py is a worker,
distant.py its side of the quota, and channel.py how the two find each other.
"""
