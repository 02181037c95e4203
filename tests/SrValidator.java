// Validates structured reports one after the other in one Java machine: a path a line comes in, the lines that
// DicomSRValidator says of it go out, each after a tab, and then an empty line.

import com.pixelmed.validate.DicomSRValidator;
import java.io.BufferedReader;
import java.io.InputStreamReader;

public class SrValidator {
    public static void main(String[] arguments) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        BufferedReader paths = new BufferedReader(new InputStreamReader(System.in));
        for (String path = paths.readLine(); path != null; path = paths.readLine()) {
            String said;
            try {
                said = validator.validate(path);
            } catch (Exception error) {
                said = "Error: " + error;
            }
            for (String line : said.split("\n")) {
                System.out.println("\t" + line);
            }
            System.out.println();
            System.out.flush();
        }
    }
}
