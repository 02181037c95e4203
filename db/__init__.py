"""Tables, states, queue and outbox. Knows neither the DICOM network nor torch."""
