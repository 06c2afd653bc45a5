"""A stand-in for AWS Elastic Load Balancing: moto, and what it lacks."""
