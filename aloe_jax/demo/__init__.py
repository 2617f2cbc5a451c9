"""All stages on one CPU machine, with simulated people.

Every stage is a command that a person could type; the demo only types them, in order, and records which are done. A
stage that was killed resumes when its command is given again.
"""
