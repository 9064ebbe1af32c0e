"""What `detmodes` does with files of detections and samples that anyone's model made."""
