"""The DICOM network: accepting associations, storing, answering queries, sending."""
