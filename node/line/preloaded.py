"""Libraries that stage processes need, loaded once in the process that they are forked from.

Importing them here keeps the first job from waiting for them.
"""

import PIL.ImageFont
import scipy.ndimage

import handlers.spool.stored_files
import inference.engines.image
import inference.images.localization
import node.steps.written_job
import sr_writer

LOADED = (PIL.ImageFont, scipy.ndimage, handlers.spool.stored_files, inference, node, sr_writer)
