"""Receives Paidup's events in Django: the models, and the view of path("hooks/paidup", receive)."""

from django.conf import settings
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from standardwebhooks import Webhook, WebhookVerificationError


class PaidupEvent(models.Model):
    id = models.CharField(max_length=64, primary_key=True)


class PaidupAccount(models.Model):
    id = models.CharField(max_length=200, primary_key=True)
    version, balance = models.BigIntegerField(default=0), models.BigIntegerField(default=0)


@csrf_exempt  # the signature says who sent it
@transaction.atomic  # what fails is not marked as seen, and is sent again
def receive(request: HttpRequest) -> HttpResponse:
    try:  # of the raw bytes: forged, or more than five minutes old
        data = Webhook(settings.PAIDUP_EVENTS_SECRET).verify(request.body, dict(request.headers))["data"]
    except (WebhookVerificationError, ValueError):
        return HttpResponse(status=400)
    if PaidupEvent.objects.get_or_create(id=request.headers["webhook-id"])[1] and data["account"]:
        PaidupAccount.objects.get_or_create(id=data["account"])
        newest = PaidupAccount.objects.filter(id=data["account"], version__lte=data["version"])
        newest.update(version=data["version"], balance=data["balance"])
    return HttpResponse(status=204)  # at once: mails and other slow work belong in a queue
