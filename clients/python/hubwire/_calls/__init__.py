"""What both clients share of each call, one file a proto: Python arguments to a request, and the response to a result.

A wrong argument is a TypeError or a ValueError here; what only the server can judge, it judges. An answer that breaks the contract is an
InternalError. A client asks a Question (or feeds a StreamQuestion) and adds nothing but the waiting.
"""

from __future__ import annotations
