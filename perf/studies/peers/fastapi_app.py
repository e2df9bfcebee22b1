"""FastAPI in front of the policy, in the same process; what two of the peers have in common."""

from fastapi import FastAPI, HTTPException

from .policy import Policy, PredictAnswer, PredictRequest


def create_app(policy: Policy) -> FastAPI:
    """Make the application."""
    app = FastAPI()

    @app.post("/predict", response_model_exclude_none=True)
    async def predict(request: PredictRequest) -> PredictAnswer:
        """Answer observations with actions."""
        try:
            return policy.answer(request)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    return app
