"""Who may call, what they may do, and what was done: identities, roles, certificates, tokens, the audit log.

Nothing in here decides over tasks, and nothing in the core knows who called.
"""
