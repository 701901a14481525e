"""How the work of a job says that the job cannot be done."""


class JobFailed(Exception):
    """A job that cannot be done, or not go on; the message is fit for the client.

    Attributes:
        code: a stable word for programs.
        retryable: whether the same request may succeed later.
    """

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code, self.retryable = code, retryable
